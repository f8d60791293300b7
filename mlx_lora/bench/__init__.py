"""Our trainer against another on the same backend: the same models, data and hyper-parameters, in turns on one machine."""
