"""Our trainer against another on the same backend, models, data and hyper-parameters, in turns on one machine."""
