"""RPE-2D: a diffusion transformer trained with randomized 2-D positions, sampled at any resolution."""
