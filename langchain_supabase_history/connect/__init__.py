"""How a store is made: from the environment, a project, clients, a connection string, or a folder."""
