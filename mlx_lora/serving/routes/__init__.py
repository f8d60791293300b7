"""Routes: each module has some of the paths, its requests and its answers; ``app`` lists them."""
