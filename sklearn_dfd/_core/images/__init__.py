"""Images: where they are, what is in them, what happens to them on their way."""
