"""What a function computes, read from its source."""
