"""mednb: how many labels can a model save if it first looks at medical images without them?"""

__version__ = "0.1.0"
