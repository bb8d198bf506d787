"""Images: finding and reading them, decoding them, and distorting them."""
