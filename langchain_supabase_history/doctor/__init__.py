"""What is right and wrong with an installation."""
