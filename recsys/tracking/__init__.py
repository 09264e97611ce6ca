"""What a run leaves behind, in its folder and in MLflow."""
