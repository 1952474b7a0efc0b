"""The content of items: their texts as known over time, the encoders, the vectors kept of them."""
