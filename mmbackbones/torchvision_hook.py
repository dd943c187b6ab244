"""Lets timm and mmseg be imported before mmbackbones where torchvision's compiled part does not match torch.

``tools/setup_env.sh`` copies this file into the environment that it makes, and only if torchvision fails to import
there; a ``.pth`` file beside the copy imports it when Python starts. ``import mmbackbones`` imports this file where
torch is not there yet. Nothing happens before torchvision is imported: then the missing operators are declared first
(:mod:`mmbackbones.torchvision_ops`). So the file needs the standard library alone.
"""

import importlib.util
import sys
from importlib.machinery import ModuleSpec
from types import ModuleType


class MmbackbonesFirst:
    """Finds torchvision as the other finders do, and declares its operators before torchvision runs."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        if name != 'torchvision':
            return None
        sys.meta_path.remove(self)
        try:
            spec = importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)
        if spec is not None and spec.loader is not None and importlib.util.find_spec('mmbackbones'):
            run = spec.loader.exec_module

            def run_after(module: ModuleType) -> None:
                importlib.import_module('mmbackbones.torchvision_ops').declare_if_missing()
                run(module)

            spec.loader.exec_module = run_after  # type: ignore[method-assign]
        return spec


sys.meta_path.insert(0, MmbackbonesFirst())
