"""VGGSound: features of clips."""
