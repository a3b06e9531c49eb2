"""Server-side batching: several requests for one call of a handler's `handle_post`."""
