"""What goes to production: run a bundle on images with numpy, pydantic and one inference engine, without torch."""

from slimtask.export.runtime.runner import Runner as Runner
