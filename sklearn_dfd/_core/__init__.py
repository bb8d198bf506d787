"""Everything that is not for users."""
