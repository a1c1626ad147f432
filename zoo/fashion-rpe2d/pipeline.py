"""Opens this folder through diffusers' generic door; needs the `workbench` package."""

import gen.rpe2d.pipeline


class RPE2DPipeline(gen.rpe2d.pipeline.RPE2DPipeline):
    """See gen.rpe2d.pipeline."""
