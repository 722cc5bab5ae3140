"""`opentoken …`: what an operator does from a terminal, over the services' own APIs."""
