"""The faces: what people and programs meet, the command line, the web app, assistants and the demo."""
