"""Reports: the parts of their pages and plots, and the report of run folders (`openba-report`)."""
