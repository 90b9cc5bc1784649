"""The reward loop: from annotations to a unified reward, or to a reward on noisy latents."""
