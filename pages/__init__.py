"""Pages of the dashboard.  Streamlit finds each .py file here by itself; shared widgets are in pages/ui."""
