"""Callbacks: TensorBoard with images, and checkpoints that survive being killed."""
