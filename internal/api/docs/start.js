window.ui = SwaggerUIBundle({
  url: "/openapi.json",
  dom_id: "#docs",
  deepLinking: true,
  docExpansion: "none",
  validatorUrl: null,
  tryItOutEnabled: false,
});
