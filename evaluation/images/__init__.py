"""What synthetic images are worth: measures in place of those of tables."""

from evaluation.images.classifier import train_classifier
from evaluation.images.evaluation import ImageEvaluation, evaluate_images
from evaluation.images.image_set import ImageSet, image_set

__all__ = ["ImageEvaluation", "ImageSet", "evaluate_images", "image_set", "train_classifier"]
