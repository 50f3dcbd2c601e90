"""Lets the published torchvision import beside a CPU build of torch: registrations of its missing C++ operators are skipped.

Copied into the peers' own environment by `make peers`; the peers' code paths that we time use none of those operators.
"""

import importlib.abc
import sys


class _Lenient(importlib.abc.MetaPathFinder):
    done = False

    def find_spec(self, name, path, target=None):
        if name == "torchvision" and not _Lenient.done:
            _Lenient.done = True
            import torch

            register = torch.library.register_fake
            torch.library.register_fake = lambda op, *a, **k: (
                (lambda f: f) if isinstance(op, str) and op.startswith("torchvision::") else register(op, *a, **k)
            )
        return


sys.meta_path.insert(0, _Lenient())
