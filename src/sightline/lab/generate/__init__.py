"""Images from text: guided by CLIP, or by diffusion and ranked by CLIP."""
