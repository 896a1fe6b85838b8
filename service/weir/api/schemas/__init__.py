"""The JSON that the API speaks, as models whose descriptions teach it in ``/docs``.

Times are Unix seconds, losses and discrepancies are in nats, null means "not there yet" and never zero.
"""
