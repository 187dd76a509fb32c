"""What is computed: measures on sound, on lead sheets and on models."""
