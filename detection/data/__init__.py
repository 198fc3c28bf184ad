"""From a COCO-style file and a folder of images to batches: checks, index, decoding, augmentation, sampling."""
