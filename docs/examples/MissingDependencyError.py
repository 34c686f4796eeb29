import sys

import bayesprior as bp

hidden = {name: sys.modules.pop(name, None) for name in ("transformers",)}
sys.modules["transformers"] = None  # as where it is not installed
try:
    bp.huggingface.CollectSWAG(rank=2, start=0, every=1)
except bp.MissingDependencyError as error:
    print(error)
finally:
    del sys.modules["transformers"]
    sys.modules.update({name: module for name, module in hidden.items() if module})
