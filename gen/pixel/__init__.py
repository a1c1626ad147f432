"""EPG: images straight from pixels, by diffusion or in one step, with a self-supervised encoder to start from."""
