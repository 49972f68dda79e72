"""What a trained model is worth: predictions, metrics and reports."""
