"""Diverse inpainting: a hierarchical VQ-VAE, structures drawn token by token, and texture for each of them.

Peng, Liu, Xu, Li, "Generating Diverse Structure for Image Inpainting With Hierarchical VQ-VAE" (arXiv 2103.10022).
"""
