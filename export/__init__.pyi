from .bundle import Bundle as Bundle
from .exporter import export_bundle as export_bundle
from .runtime.runner import Runner as Runner
