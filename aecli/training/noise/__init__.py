"""Noise that is added to clean pictures while training.

gaussian   the small models' `--noise`, white noise for validation
kinds      one function a kind of noise that photographs have
camera     shot and read noise on its way through a camera: mosaic, demosaicing, tone curve, smoothing
jpeg       JPEG as arithmetic on batches
mixture    which share of a batch gets which kind, and what the denoiser is asked for

Everything but `Noise` works on batches of tensors on any device; random numbers come from a generator on that device.
"""

from aecli.training.noise.gaussian import Noise, add_gaussian, parse_noise
from aecli.training.noise.kinds import KINDS
from aecli.training.noise.mixture import DRAWINGS, PHOTOGRAPHS, Degraded, degrade

__all__ = ["DRAWINGS", "KINDS", "PHOTOGRAPHS", "Degraded", "Noise", "add_gaussian", "degrade", "parse_noise"]
