"""The assistant language: objects to text and back, over characters and over tokens."""
