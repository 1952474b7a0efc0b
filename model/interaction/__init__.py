"""Interaction stacks: feature tokens in, tokens out, one module per paper."""
