"""From files on disk to batches of images.  Networks, and what is learnt from the images, belong elsewhere."""
