"""What runs beside the model: replica, workers, handlers."""
