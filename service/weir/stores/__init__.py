"""Where the service keeps what must outlive it."""
