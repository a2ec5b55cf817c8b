"""What answers: models behind servers and models in this process."""
