"""The musicians: what they play, written down before it sounds."""
