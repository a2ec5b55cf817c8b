"""The bundled small models."""
