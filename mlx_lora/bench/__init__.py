"""Our trainer against mlx-lm's own, on the same models, data and hyper-parameters, in turns on one machine."""
