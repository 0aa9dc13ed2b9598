"""Files to text: what a file is, one reader per modality, OCR, and files that hold many others."""
