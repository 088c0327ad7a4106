"""All coordinate mathematics: bins, boxes, polygons, IoU. The only room that knows the number 999."""
