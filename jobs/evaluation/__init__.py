"""How a trained network is measured."""
