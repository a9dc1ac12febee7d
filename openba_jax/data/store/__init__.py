"""The token store on disk: reading, writing, its manifest, and tools that copy stores."""
