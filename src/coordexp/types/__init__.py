"""The vocabulary: frozen dataclasses that flow between the rooms, and the errors a user sees. Standard library and numpy only."""
