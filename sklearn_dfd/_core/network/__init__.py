"""MobileNetV2: the frozen trunk, the tail that is trained, and what runs them."""
