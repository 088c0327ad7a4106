from coordexp.pipeline.detections import Detections as Detections
from coordexp.pipeline.detector import Detector as Detector

__version__: str
