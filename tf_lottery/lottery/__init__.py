"""Which stages find and train a ticket, how each is done, what it costs."""
