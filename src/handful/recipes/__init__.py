"""Recipes: the settings of whole training runs, one file per family.

Every public function of a file is a recipe of that name, and its docstring is the description in `handful list recipes`. Helpers have names that
begin with an underscore. A recipe takes what is known before training as keywords, each of which may be missing: resolution (pixels) and batch
(images), None where the user asked for none; gpus (processes that share the batch), count (of training images), device ("cpu", "cuda", "mps"),
num_classes. The **_ of its signature takes those that it doesn't use. It returns the tree of settings that `config.parse` reads. Published figures
are not here but in reproduce/published.
"""
