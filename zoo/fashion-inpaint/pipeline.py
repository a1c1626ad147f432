"""Opens this folder through diffusers' generic door; needs the `workbench` package."""

import gen.inpaint.pipeline


class DiverseInpaintPipeline(gen.inpaint.pipeline.DiverseInpaintPipeline):
    """See gen.inpaint.pipeline."""
