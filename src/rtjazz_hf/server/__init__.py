"""Server: the web API (clips over HTTP, live sessions over a WebSocket) and its player. `rtjazz serve` starts it."""
